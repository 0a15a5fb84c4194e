"""A teacher's most probable ids over a stream, computed once for all students that draw it."""
