"""What inputs and outputs mean, as a card declares it: rows, texts, pictures, tables, labels."""
