"""Boards: this machine or one behind SSH, what is on them, and what they measure."""
