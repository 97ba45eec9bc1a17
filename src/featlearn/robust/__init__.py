"""Did it learn the right feature? Groups, probes, last layers fitted anew, richer features for other environments."""
