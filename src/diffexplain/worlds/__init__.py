"""Worlds: pictures made from known attributes, so that true effects can be measured by re-rendering."""
