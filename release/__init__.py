"""What a release is made of besides the sources: the tag of the wheel, and the folder for the ``kernels`` library."""
