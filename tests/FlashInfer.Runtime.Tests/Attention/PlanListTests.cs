using System.Runtime.CompilerServices;
using FlashInfer.Attention;

namespace FlashInfer.Tests.Attention;

public class PlanListTests
{
    /// <summary>Host and device write and read an item in one piece.</summary>
    [Theory]
    [InlineData(AttentionOptions.None)]
    [InlineData(AttentionOptions.LogitsSoftCap)]
    [InlineData(AttentionOptions.Rope)]
    public void No_item_lies_across_two_cache_lines(AttentionOptions options)
    {
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = 1 });
        using PlanList list = new(device, capacity: 5, AttentionVariant.Of(options));
        Assert.Equal(0, (list.Address + Unsafe.SizeOf<ListHeader>()) % Unsafe.SizeOf<WorkItem>());
        Assert.Equal(
            0,
            Unsafe.ByteOffset(ref Unsafe.NullRef<byte>(), ref Unsafe.As<WorkItem, byte>(ref list.Begin()[0])) % Unsafe.SizeOf<WorkItem>()
        );
    }
}
