"""Infrastructure shared by both products: settings, storage, commit, Ray sessions, tracking."""
