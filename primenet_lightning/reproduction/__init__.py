"""The paper measured: parts that are carried out once, tables, figures, and a verdict for each claim."""
