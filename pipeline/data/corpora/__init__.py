"""A published folder and its manifest become labelled rows."""
