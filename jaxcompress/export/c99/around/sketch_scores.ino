  static float scores[@NAME@_CLASSES];
  @name@_scores(scores);
  int best = 0;
  for (int i = 1; i < @NAME@_CLASSES; i++)
    if (scores[i] > scores[best]) best = i;
  Serial.print(@name@_classes[best]);
  Serial.print(" ");
  Serial.println(scores[best]);
