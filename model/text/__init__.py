"""From text to wordpiece ids and windows."""
