namespace csharp = flashinfer::csharp;

struct Variant : flashinfer::NoVariant {
  struct Arguments {
    flashinfer::Span<int> prefix;
  };

  static constexpr bool kMasksLogits = true;

  static __device__ __forceinline__ bool keep(const flashinfer::LogitsContext& at, const Arguments& a) {
    return (at.kv_position <= at.qo_position) | (at.kv_position < a.prefix[at.sequence]);
  }
};
