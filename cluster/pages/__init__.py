"""Pages for people: templates in, one self-contained HTML file out. `templates.py` first; the look is `page.css`."""
