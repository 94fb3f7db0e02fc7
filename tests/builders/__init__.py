"""What tests make: days, events, pairs and annotations to read, engines and tiny models to ask."""
