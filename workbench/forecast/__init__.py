"""What a study has already, what is left of it, and what that will take: time, memory, disk and money."""
