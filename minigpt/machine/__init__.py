"""Machine: where and in which precision to compute, faster forms, and several processes."""
