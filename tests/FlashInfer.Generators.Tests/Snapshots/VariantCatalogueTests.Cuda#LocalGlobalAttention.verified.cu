namespace csharp = flashinfer::csharp;

struct Variant : flashinfer::NoVariant {
  struct Arguments {
    int window;
    int all_heads_see_all;
  };

  static constexpr bool kMasksLogits = true;

  static __device__ __forceinline__ bool keep(const flashinfer::LogitsContext& at, const Arguments& a) {
    const bool is_local = at.kv_head < 4 && !(a.all_heads_see_all != 0);
    if (!is_local || at.kv_position < 4) {
      return true;
    }
    return at.qo_position - at.kv_position <= a.window;
  }
};
