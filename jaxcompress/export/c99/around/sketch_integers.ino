  @type@ *input = @input@;
  for (int32_t i = 0; i < @count@; i++) input[i] = 0;  // in place of what you measure
