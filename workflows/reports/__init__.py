"""Reports on stores and loaders, as terminal lines and self-contained HTML pages."""
