"""The operators as they are called: they check arguments and choose a backend; the backends compute."""
