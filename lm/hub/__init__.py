"""Other people's formats: Hugging Face folders, read and written; one file a family.

A new family: its file beside these, and its name in the table of `lm.hub.families`.
"""
