"""One module a benchmark; the scripts beside this folder start them."""
