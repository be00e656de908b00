namespace csharp = flashinfer::csharp;

struct Variant : flashinfer::TransformByCap<Variant> {
  struct Arguments {
    float cap;
    float inverse;
  };


  static __device__ __forceinline__ float before(const flashinfer::LogitsContext& at, const Arguments& a) {
    return a.inverse;
  }

  static __device__ __forceinline__ float after(const Arguments& a) {
    return a.cap;
  }
};
