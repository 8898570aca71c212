"""How things are shown: figures, HTML, tables and Markdown. It knows strings and numbers, no object of the domain."""
