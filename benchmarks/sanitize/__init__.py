"""Every kernel on few samples: is it right, whatever else happens, and what compute-sanitizer says of it."""
