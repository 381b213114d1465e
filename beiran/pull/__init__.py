"""What a pull means: tags resolved, layers located, images delivered to the engine."""
