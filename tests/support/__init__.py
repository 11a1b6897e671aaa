"""What the tests of several rooms share: prototxt written in a line, LMDBs of a few records."""
