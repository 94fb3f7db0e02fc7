"""Pages for people: templates in, one HTML file out. Start with `templates.py`; `page.css` is the look."""
