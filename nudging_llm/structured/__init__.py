"""Answers of a given form: response formats, grammars, and the constraint that holds an answer to one."""
