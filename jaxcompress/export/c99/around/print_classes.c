  static float scores[@NAME@_CLASSES];
  static uint8_t shown[@NAME@_CLASSES];
  const @type@ *codes = @output@;
  int32_t i, k;
  @name@_scores(scores);
  memset(shown, 0, sizeof shown);
  for (k = 0; k < 5 && k < @NAME@_CLASSES; k++) {
    int32_t best = -1;
    for (i = 0; i < @NAME@_CLASSES; i++)
      if (!shown[i] && (best < 0 || codes[i] > codes[best])) best = i;
    shown[best] = 1;
    printf("  %.4f  %s  (integer %d)\n", (double)scores[best], @name@_classes[best], (int)codes[best]);
  }
