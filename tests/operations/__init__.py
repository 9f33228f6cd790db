"""The public functions and operators: values, gradients, transforms, special cases, and what is refused."""
