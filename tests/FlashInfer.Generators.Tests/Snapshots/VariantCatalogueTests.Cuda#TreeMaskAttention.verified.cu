namespace csharp = flashinfer::csharp;

struct Variant : flashinfer::NoVariant {
  struct Arguments {
    flashinfer::Span<unsigned> ancestors;
  };

  static constexpr bool kMasksLogits = true;

  static __device__ __forceinline__ bool keep(const flashinfer::LogitsContext& at, const Arguments& a) {
    const int node = at.kv_position - (at.kv_len - at.qo_len);
    return (node < 0) | (((a.ancestors[csharp::shift_left(at.sequence, 5) | at.qo_index] >> (node & 31)) & 1u) != 0u);
  }
};
