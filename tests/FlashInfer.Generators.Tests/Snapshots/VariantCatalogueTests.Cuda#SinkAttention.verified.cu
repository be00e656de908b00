namespace csharp = flashinfer::csharp;

struct Variant : flashinfer::NoVariant {
  struct Arguments {
    flashinfer::Span<float> sinks;
    int window;
  };

  static constexpr bool kBoundsKeys = true;
  static constexpr bool kHasSink = true;

  static __device__ __forceinline__ int first_key(const flashinfer::LogitsContext& at, const Arguments& a) {
    return a.window > 0 ? csharp::max(0, csharp::add(csharp::subtract(at.qo_position, a.window), 1)) : 0;
  }

  static __device__ __forceinline__ float sink(int head, const Arguments& a) {
    return a.sinks[head];
  }
};
