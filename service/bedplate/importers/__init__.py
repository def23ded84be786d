"""Models as people have them become bundles, on their author's machine; hosts never load what is read here."""
