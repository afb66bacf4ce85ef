"""What the benchmarks share: a private kernel, C built on the spot, cages without a kernel, statistics, reports."""
