/* The rows of a tensor in the arena: row y is the (y % kept)-th from its first byte. */
struct jaxcompress_tensor {
  int32_t first, row_bytes;
  int16_t rows, kept;
  int16_t made_by; /* an operation, -1: the input */
};

/* Rows y * stride - before + i * dilation of a tensor, or those of a table; a whole tensor if there are none. */
struct jaxcompress_reads {
  const int16_t *table;
  int16_t tensor, rows, stride, before, dilation;
};

struct jaxcompress_operation {
  void (*function)(const void *params, const void *const *in, void *const *out, void *scratch, int32_t y);
  const void *params;
  int32_t scratch;
  int16_t calls;
  int16_t grows; /* whether each call makes a row of the outputs, or the last one all of them */
  int16_t reads, reads_end;
  int16_t outputs, outputs_end;
};

/* Operations that follow one another, and those of them that are brought to their ends. */
struct jaxcompress_stage {
  int16_t start, stop, targets, targets_end;
};
