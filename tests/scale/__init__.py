"""Tests of the homes of a loop beyond one folder, against real servers."""
