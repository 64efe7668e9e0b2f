  {
    const @type@ *codes = @output@;
    int32_t i;
    printf("  %s", "@label@:");
    for (i = 0; i < @count@; i++) printf(" %d", (int)codes[i]);
    printf("\n");
  }
