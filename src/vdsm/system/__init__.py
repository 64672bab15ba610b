"""One module per tool or kernel interface; they do not know one another."""
