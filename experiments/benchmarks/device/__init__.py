"""What an accelerator does with this package, in the minutes that it is lent for."""
