"""The host itself: capabilities, statistics, hardware."""
