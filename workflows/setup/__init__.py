"""Set-up of the Python environment, and the checks of `tesserae doctor`."""
