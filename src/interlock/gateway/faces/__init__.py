"""What callers speak: each face reads the requests of one dialect and writes answers and errors in it."""
