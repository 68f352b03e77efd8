"""Load with locust, and the files it plays."""
