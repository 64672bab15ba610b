"""Images in and out: tickets of the image daemon, NBD servers, and the processes behind them."""
