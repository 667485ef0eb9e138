"""How good labels are: figures against the truth, and a report of them."""
