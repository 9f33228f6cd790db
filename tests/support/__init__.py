"""What tests share: inputs, exact values, tolerances, stand-ins and watchers. No test is here."""
