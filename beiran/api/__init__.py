"""The words of the API: the rows it lists and the events it streams."""
