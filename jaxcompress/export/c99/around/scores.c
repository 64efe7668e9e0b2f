
const char *const @name@_classes[@NAME@_CLASSES] = {
@classes@
};

void @name@_scores(float *scores) {
  const @type@ *codes = @output@;
  int32_t i;
@softmax@
}
