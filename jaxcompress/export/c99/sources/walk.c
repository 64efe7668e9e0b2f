/* The i-th row that a call reads; beyond the tensor's ends where there is none. */
static int32_t row_read(const struct jaxcompress_reads *read, int32_t y, int32_t i) {
  if (read->table != NULL) return read->table[y * read->rows + i];
  return y * read->stride - read->before + i * read->dilation;
}

/* How many rows of a tensor must be there for a call. */
static int32_t rows_needed(const struct jaxcompress_reads *read, int32_t y) {
  const int32_t rows = tensors[read->tensor].rows;
  int32_t needed = read->rows == 0 ? rows : 0;
  for (int32_t i = 0; i < read->rows; i++) {
    const int32_t row = row_read(read, y, i);
    if (row >= needed && row < rows) needed = row + 1;
  }
  return needed;
}

static int8_t *row_at(int32_t tensor, int32_t y) {
  const struct jaxcompress_tensor *t = &tensors[tensor];
  return arena.bytes + t->first + y % t->kept * t->row_bytes;
}

/* An operation of the stage that has yet to make what a call reads, or -1. */
static int32_t missing(int32_t place, const int16_t *done, int32_t start) {
  const struct jaxcompress_operation *operation = &operations[place];
  for (int32_t k = operation->reads; k < operation->reads_end; k++) {
    const int32_t maker = tensors[reads[k].tensor].made_by;
    if (maker >= start) {
      const int32_t rows = rows_needed(&reads[k], done[place - start]);
      const int32_t calls = operations[maker].grows || rows == 0 ? rows : operations[maker].calls;
      if (done[maker - start] < calls) return maker;
    }
  }
  return -1;
}

static void call(const struct jaxcompress_operation *operation, int32_t y) {
  const void *in[MOST_READ];
  void *out[MOST_WRITTEN];
  const void **next = in;
  if (operation->function == NULL) return; /* the output has the input's place and bytes */
  for (int32_t k = operation->reads; k < operation->reads_end; k++) {
    if (reads[k].rows == 0) *next++ = row_at(reads[k].tensor, 0);
    for (int32_t i = 0; i < reads[k].rows; i++) {
      const int32_t row = row_read(&reads[k], y, i);
      *next++ = row < 0 || row >= tensors[reads[k].tensor].rows ? NULL : row_at(reads[k].tensor, row);
    }
  }
  for (int32_t k = operation->outputs; k < operation->outputs_end; k++)
    out[k - operation->outputs] = row_at(outputs[k], operation->grows ? y : 0);
  operation->function(operation->params, in, out, arena.bytes + operation->scratch, y);
}

/* Within a stage rows are pulled from its end: whatever a row needs is made just before it. */
static void walk(void) {
  static int16_t done[LONGEST_STAGE];
  for (int32_t s = 0; s < STAGES; s++) {
    const int32_t start = stages[s].start;
    for (int32_t i = 0; i < stages[s].stop - start; i++) done[i] = 0;
    for (int32_t t = stages[s].targets; t < stages[s].targets_end; t++) {
      const int32_t target = targets[t];
      while (done[target - start] < operations[target].calls) {
        int32_t place = target, before;
        while ((before = missing(place, done, start)) >= 0) place = before;
        call(&operations[place], done[place - start]);
        done[place - start]++;
      }
    }
  }
}
