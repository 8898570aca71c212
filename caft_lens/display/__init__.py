"""How things are shown: HTML that reads right anywhere, tables, and Markdown. It knows strings and numbers, no object
of the domain.

html       the one place where HTML is built: escaping, tokens on the shade of their value, rows, tables
frames     data frames that a notebook shows as they are, never as mathematics
markdown   text that Markdown shows as it is
"""
