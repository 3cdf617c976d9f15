"""Layouts that several data sets share: parsing of their files, below the readers and above the typed sequences."""
