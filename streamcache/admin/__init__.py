"""What an operator sees and steers, over a listener of its own: health, metrics, a JSON API."""
