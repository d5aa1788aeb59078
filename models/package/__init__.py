"""One model package and the repository of packages: card, files, page, signature."""
