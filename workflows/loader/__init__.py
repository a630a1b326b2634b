"""The benchmark of the data loader, `tesserae loader`."""
